"""What the published configs and their columns mean, with units: the card's dictionary. A test holds it to the files that are
really published, so that a new column must be described here."""

from collections.abc import Iterator

import pyarrow as pa

CONFIG_ROWS = {
    "preference": "a pair of answers to one prompt, as TRL reads it, and as objectives with one fixed rejected answer train on",
    "preference_full": "the same pair with whole conversations as chosen and rejected: the prompt's messages, then the answer",
    "ranked": "a prompt with all its ranked answers, the best first",
    "unpaired": "one answer with a label of good or bad",
    "sft": "a prompt with one demonstration",
    "sets": "a prompt with all its candidates: roles, ranks and log-probs under each reference",
    "candidates": "an answer that was kept, with where it is from and how it was sampled",
    "verdicts": "one call of a judge",
    "logps": "the log-prob of one answer under one reference",
    "drops": "a row, prompt or answer that was removed, with the stage and the reason",
}
"""Config: what one row of it is."""
OF_RUN = {
    False: "a prompt of an online run, as in sets",
    True: "an answer of an online run's checkpoints, as in candidates",
}
"""Configs of online runs: of the sets, of the candidates."""

COLUMNS = {
    "prompt_id": "prompt: 16 hex digits, a hash of its messages; joins all configs",
    "candidate_id": "answer: 16 hex digits, a hash of prompt, text, origin, producer and sampling; joins all configs",
    "chosen_id": "candidate_id of the chosen answer",
    "rejected_id": "candidate_id of the rejected answer",
    "split": "sft, train, validation or test",
    "source": "source of the prompt, name@revision (local: a file)",
    "source_row": "id of the row in its source",
    "segment": "segment of the online run that the row was made in, from 1; null elsewhere",
    # messages
    "prompt": "the conversation up to the turn that is answered, as a list of messages",
    "messages": "the conversation, as a list of messages",
    "chosen": "the preferred answer, as a list of messages",
    "rejected": "the other answer, as a list of messages",
    "completion": "the answer, as a list of messages",
    "role": "who speaks: system, user, assistant or tool",
    "content": "what is said",
    "tools": "tools that the prompt offers, as JSON; null: none",
    "chat_template_kwargs": "arguments that the prompt gives the chat template, as JSON; null: none",
    "template_kwargs": "arguments that the prompt gives the chat template, as JSON; null: none",
    "prompt_extras": "what the prompt's messages hold beside role and content, as JSON, one object a message; null: nothing",
    "extras": "what an answer holds beside its text (reasoning, tool calls), as JSON; null: nothing",
    # candidates
    "candidates": "all answers of the prompt, the chosen one first, then by rank",
    "response": "the text of the answer",
    "label": "whether the answer is a good one; null: not labelled",
    "origin": "source: the source's own; generated: sampled from a model; noise: the chosen answer with two tokens exchanged",
    "producer": "who wrote the answer: the source's name of its model, or name@revision of a model that was sampled",
    "temperature": "sampling temperature, 0 is greedy; null where it is not known",
    "seed": "seed of the sampling; null where it is not known",
    "sample": "which of several samples at one temperature, from 0",
    "finish": "stop: the answer ended by itself; length: the limit of tokens cut it; error: it could not be made",
    "num_tokens": "tokens of the answer, by the tokenizer of the model that is named beside it",
    "parent_id": "noise: candidate_id of the answer that was changed",
    "source_rank": "rank in the source, 1 is best, ties are averages; null: none",
    "source_score": "score in the source, in its own unit, higher is better; null: none",
    "raw": "the model's whole reply, where response is a part of it (after its reasoning); of a verdict the judge's reply",
    "copies": "answers of this prompt with this very text, which are one candidate of the set",
    "rank": "rank among the prompt's answers by the set's ranking, 1 is best, equal ranks are ties; null: not ranked (noise)",
    "score": "score of the answer by the set's ranking, in the judge's unit, higher is better; null where it gives none",
    "win_prob": "mean chance to beat another answer of the prompt, by the judge's comparisons; null where not known",
    # log-probs
    "logps": "log-probs of the answer, one entry a reference, the primary reference first",
    "reference": "name of the reference model; the section on references says which model that is",
    "logp": "log-prob of the answer after its prompt, in nats, summed over num_tokens tokens, the end token included",
    # pairs and lists
    "context": "the conversation up to the turn that is answered, as a list of messages",
    "completions": "the ranked answers of the prompt, the best first",
    "model": "producer of the answer: the source's name of its model, or name@revision of a model that was sampled",
    "chosen_model": "producer of the chosen answer",
    "rejected_model": "producer of the rejected answer",
    "score_chosen": "score of the chosen answer by the set's ranking, higher is better; null where the ranking gives none",
    "score_rejected": "score of the rejected answer by the set's ranking, higher is better; null where the ranking gives none",
    # verdicts and drops
    "a": "candidate_id of the first answer of the pair (the smaller id)",
    "b": "candidate_id of the second answer of the pair; null: the judge scored a by itself",
    "order": "which answer the judge read first: ab or ba",
    "judge": "judge, as name@revision",
    "rubric": "hash of the words that the judge was asked with",
    "outcome": "a or b: that answer is better; tie; missing: no clear reply",
    "margin": "nats by which the judge's label of the winner is likelier than the other's; null where it gives no log-probs",
    "reason": "why the row was removed, or why a verdict is missing",
    "tokens": "tokens of the judge's call, prompt and reply; null: not counted",
    "cost": "cost of the call, in the currency of the server's price; null: not known",
    "round": "round of the judge's procedure, from 1",
    "scope": "what was removed: row, prompt or candidate",
    "stage": "stage that removed it",
    "detail": "more about the reason",
}
"""A column or a field, whatever its config: what it is, in which unit."""
IN_CONFIG = {
    (
        "sets",
        "candidates.role",
    ): "chosen: trained on as the best; rejected: ranked below it; other: ties with the chosen one and is never trained on",
    ("sets", "candidates.logps.num_tokens"): "tokens that logp sums over, by the reference's tokenizer, the end token included",
    ("candidates", "num_tokens"): "tokens of the model's whole reply, by its own tokenizer; null: not known",
    ("logps", "num_tokens"): "tokens that logp sums over, by the reference's tokenizer, the end token included",
    ("preference_full", "prompt"): "the last user's text",
    ("preference_full", "chosen"): "the whole conversation with the preferred answer, as a list of messages",
    ("preference_full", "rejected"): "the whole conversation with the other answer, as a list of messages",
    ("ranked", "chosen"): "the preferred answer of the pair in preference, as one message",
    ("ranked", "rejected"): "the other answer of the pair in preference, as one message",
    ("ranked", "completions.completion"): "the answer, as a list of messages",
    ("unpaired", "label"): "true: a good answer; false: a bad one",
}
"""Where a column means something of its own in a config."""
OF_MESSAGE = "key of the source's messages, as it was there"
OF_ARGUMENTS = "argument of the chat template; null: not given"
MESSAGE_LISTS = ("prompt", "messages", "chosen", "rejected", "completion", "context", "completions.completion")


def config_rows(config: str, online: str, of_candidates: str) -> str:
    """What one row of a config is. `online`, `of_candidates`: how names of online runs' configs begin and end."""
    return OF_RUN[config.endswith(of_candidates)] if config.startswith(online) else CONFIG_ROWS[config]


def meaning(config: str, path: str) -> str | None:
    """What a column, or a field within it (`candidates.role`), is; None for one that nobody has described."""
    top, _, name = path.rpartition(".")
    if top in MESSAGE_LISTS and name not in ("role", "content"):
        return OF_MESSAGE
    if top == "chat_template_kwargs":
        return OF_ARGUMENTS
    return IN_CONFIG.get((config, path)) or COLUMNS.get(name)


def fields(schema: pa.Schema) -> Iterator[tuple[str, str]]:
    """(path, type) of every column of a file and every field inside it."""
    for field in schema:
        yield from _fields(field.name, field.type)


def _fields(path: str, dtype: pa.DataType) -> Iterator[tuple[str, str]]:
    inner, lists = dtype, ""
    while pa.types.is_list(inner) or pa.types.is_large_list(inner):
        inner, lists = inner.value_type, f"list of {lists}"
    if pa.types.is_struct(inner):
        yield path, f"{lists}struct"
        for field in inner:
            yield from _fields(f"{path}.{field.name}", field.type)
    else:
        yield path, lists + _called(inner)


def _called(dtype: pa.DataType) -> str:
    """A type's name as readers know it."""
    if isinstance(dtype, pa.BaseExtensionType):
        return "JSON"
    return "string" if pa.types.is_large_string(dtype) else "float64" if pa.types.is_float64(dtype) else str(dtype)
