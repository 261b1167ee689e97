"""Every shape of source with a literal sample and its traps, through the stage `sources`."""

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import ConfigError, DataError, PrefdataError
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.units import Part
from prefdata.sources.rows import Fields
from prefdata.sources.shapes import nectar as nectar_shape
from prefdata.tables import files

TABLES = ("prompts", "candidates", "drops")


@pytest.fixture
def read(make_run, write_rows):
    """read(rows, **source) -> the three tables."""

    def call(rows, rate: float = 1.0, name: str = "rows.jsonl", **source: object) -> dict[str, pl.DataFrame]:
        path = rows if isinstance(rows, str) and rows.startswith("/") else write_rows(rows, name)
        run = make_run(sources={"sources": [{"name": "s", "path": path, **source}], "max_reject_rate": rate})
        run_stages(run, "sources")
        return {t: files.read_table(Path(p), t) for t, p in zip(TABLES, run.outputs("sources"), strict=True)}

    return call


def ranked(made: dict[str, pl.DataFrame]) -> dict[str, float | None]:
    """Response -> source_rank."""
    return dict(made["candidates"].select("response", "source_rank").iter_rows())


def reasons(made: dict[str, pl.DataFrame]) -> list[tuple[str, str]]:
    return sorted(made["drops"].select("scope", "reason").cast(pl.String).iter_rows())


def contents(made: dict[str, pl.DataFrame]) -> list[list[tuple[str, str]]]:
    return [[(m["role"], m["content"]) for m in p] for p in made["prompts"]["messages"].to_list()]


# ---- UltraFeedback ----


def completion(text: str, overall: float, ratings=("4", "5", "N/A", "4"), model: str = "llama", **extra):
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "model": model,
        "principle": "helpfulness",
        "custom_system_prompt": "You are a pirate.",
        "response": text,
        "annotations": {n: {"Rating": r, "Rationale": "because"} for n, r in zip(names, ratings, strict=True)},
        "overall_score": overall,
        "fine-grained_score": 4.25,
        "critique": "fine",
        **extra,
    }


def feedback(*completions, source: str = "evol_instruct"):
    return {
        "source": source,
        "instruction": "Name a colour.",
        "models": [c["model"] for c in completions],
        "completions": list(completions),
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def test_ultrafeedback_scores_order_the_answers_and_system_prompts_stay_out(read) -> None:
    made = read([feedback(completion("red", 7.5), completion("blue", 9), completion("grün", 7.5))], format="ultrafeedback")
    assert contents(made) == [[("user", "Name a colour.")]]
    assert ranked(made) == {"blue": 1.0, "red": 2.0, "grün": 2.0}
    assert set(made["candidates"]["source_score"]) == {7.5, 9.0}
    assert set(made["candidates"]["producer"]) == {"llama"}


def test_ultrafeedback_a_ten_that_its_ratings_deny_is_not_believed(read) -> None:
    low, mixed, high = (
        completion("low", 10, ("1", "1", "1", "2")),
        completion("mixed", 10, ("4", "4", "N/A", "4")),
        completion("high", 10, ("5", "5", "4", "5")),
    )
    made = read([feedback(low, mixed, high, completion("six", 6))], format="ultrafeedback")
    assert reasons(made) == [("candidate", "doubtful_score")] * 2
    assert ranked(made) == {"low": None, "mixed": None, "high": 1.0, "six": 2.0}


def test_ultrafeedback_may_order_by_another_rating_and_na_is_no_rating(read) -> None:
    row = feedback(completion("a", 1, ("2", "5", "N/A", "1")), completion("b", 9, ("1", "N/A", "N/A", "1")))
    by = read([row], format="ultrafeedback", fields={"score": "annotations.honesty.Rating"})
    assert ranked(by) == {"a": 1.0, "b": None}
    assert reasons(by) == [("candidate", "no_score")]
    fine = read([row], format="ultrafeedback", fields={"score": "fine-grained_score"})
    assert ranked(fine) == {"a": 1.0, "b": 1.0}


def test_ultrafeedback_truthful_qa_is_left_out_unless_asked_for_and_is_no_bad_input(read) -> None:
    rows = [feedback(completion("x", 3), completion("y", 5), source="truthful_qa")]
    assert reasons(read(rows, 0.0, format="ultrafeedback")) == [("row", "excluded")]
    assert read(rows, 0.0, format="ultrafeedback", exclude=[])["prompts"].height == 1


def test_ultrafeedback_prompts_only_keeps_prompts_without_answers(make_run, write_rows) -> None:
    path = write_rows([{"source": "sharegpt", "instruction": "Hello"}])
    source = {"name": "u", "path": path, "format": "ultrafeedback", "prompts_only": True}
    with pytest.raises(ConfigError, match="u gives prompts only; name models under generate.models, or online.runs, to answer"):
        make_run(sources={"sources": [source]})
    run = make_run(sources={"sources": [source]}, generate={"models": [{"name": "m", "id": "/somewhere"}]})
    run_stages(run, "sources")
    prompts, candidates, drops = (files.read_table(Path(p), t) for p, t in zip(run.outputs("sources"), TABLES, strict=True))
    assert (prompts.height, candidates.height, drops.height) == (1, 0, 0)


def test_prompts_only_still_reads_nectars_turns(make_run, write_rows) -> None:
    path = write_rows([{"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "}])
    run = make_run(
        sources={"sources": [{"name": "n", "path": path, "prompts_only": True}]},
        generate={"models": [{"name": "m", "id": "/m"}]},
    )
    run_stages(run, "sources")
    messages = files.read_table(Path(run.outputs("sources")[0]), "prompts")["messages"][0].to_list()
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completions": "x"}, "rows.jsonl:1:completions: list expected"),
        ({"completions": [completion("x", 1) | {"overall_score": "bad"}]}, "overall_score: no rating: 'bad'"),
        ({"completions": [completion("x", float(10**300) * 10)]}, "overall_score: a finite number expected"),
        ({"instruction": None}, "rows.jsonl:1:instruction: str expected, not NoneType"),
    ],
)
def test_ultrafeedback_wrong_shapes_are_named(read, change, said) -> None:
    with pytest.raises(PrefdataError, match=said.replace("[", r"\[")):
        read([feedback(completion("a", 1)) | change], format="ultrafeedback")


# ---- ultrafeedback_binarized ----


def binarized(chosen="good", rejected="bad", scores=(8.0, 5.0), before=("Hi",), other=None):
    def talk(answer, turns):
        listed = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]
        return [*listed, {"content": answer, "role": "assistant"}]

    return {
        "prompt": before[0],
        "prompt_id": "f" * 64,
        "chosen": talk(chosen, before),
        "rejected": talk(rejected, other or before),
        "messages": talk(chosen, before),
        "score_chosen": scores[0],
        "score_rejected": scores[1],
    }


def test_binarized_conversations_become_prompt_and_two_answers(read) -> None:
    made = read([binarized(before=("Hi", "Hello", "And?"))], format="ultrafeedback_binarized")
    assert contents(made) == [[("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]]
    assert ranked(made) == {"good": 1.0, "bad": 2.0}


def test_binarized_equal_scores_tie_and_contradictions_are_dropped(read) -> None:
    assert ranked(read([binarized(scores=(5.0, 5.0))], format="ultrafeedback_binarized")) == {"good": 1.0, "bad": 1.0}
    assert reasons(read([binarized(scores=(4.0, 5.0))], format="ultrafeedback_binarized")) == [("row", "contradictory")]


def test_binarized_conversations_that_differ_early_are_dropped(read) -> None:
    row = binarized(before=("Hi", "Hello", "And?"), other=("Hi", "Hullo", "And?"))
    assert reasons(read([row], format="ultrafeedback_binarized")) == [("row", "turns_differ")]


def test_binarized_a_conversation_that_ends_with_the_user_is_an_error(read) -> None:
    row = binarized() | {"chosen": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(PrefdataError, match=r"rows.jsonl:1:chosen: not a conversation that ends"):
        read([row], format="ultrafeedback_binarized")


def test_the_hub_splits_name_tells_what_is_held_out() -> None:
    from prefdata.sources.settings import SourceSettings
    from prefdata.stages.reading import held_out

    def split(name: str, **more) -> str | None:
        return held_out(SourceSettings(name="s", dataset="a/b", revision="0" * 40, hub_split=name, **more))

    assert [split(n) for n in ("train_prefs", "test_prefs", "test_gen", "validation")] == [None, "test", "test", "validation"]
    assert held_out(SourceSettings(name="s", path="x.jsonl", hub_split="test")) is None


# ---- HelpSteer ----


def steer(response: str, helpfulness: int, prompt: str = "Why?", **more):
    ratings = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, **ratings, **more}


def test_helpsteer_rows_of_a_prompt_are_one_candidate_set_in_any_order(read) -> None:
    rows = [steer("a", 1), steer("other", 2, "What?"), steer("b", 4), steer("c", 4), steer("a", 1)]
    made, again = read(rows, format="helpsteer"), read(rows[::-1], format="helpsteer")
    assert all(made[t].equals(again[t]) for t in TABLES)
    assert made["prompts"].height == 2
    mine = made["candidates"].filter(pl.col("response") != "other")
    assert sorted(mine.select("response", "source_rank", "sample").iter_rows()) == [
        ("a", 2.0, 0),
        ("a", 2.0, 1),
        ("b", 1.0, 0),
        ("c", 1.0, 0),
    ]
    assert mine["producer"].unique().to_list() == ["unknown"]
    assert made["drops"].is_empty()
    rows_of = made["prompts"]["source_row"].to_list()
    assert len(set(rows_of)) == 2


def test_helpsteer_another_rating_may_order(read) -> None:
    rows = [steer("a", 4, correctness=0), steer("b", 0, correctness=3)]
    assert ranked(read(rows, format="helpsteer", fields={"score": "correctness"})) == {"a": 2.0, "b": 1.0}


def test_helpsteer2_turns_are_split_and_broken_ones_dropped(read) -> None:
    good = "one\n<extra_id_1>Assistant\ntwo\n<extra_id_1>User\nthree"
    made = read([steer("x", 3, good), steer("y", 2, good)], format="helpsteer")
    assert contents(made) == [[("user", "one"), ("assistant", "two"), ("user", "three")]]
    assert reasons(read([steer("x", 3, "one\n<extra_id_1>Assistant\ntwo")], format="helpsteer")) == [("row", "bad_dialogue")]


def test_helpsteer_ratings_outside_their_scale_are_errors(read) -> None:
    with pytest.raises(PrefdataError, match=r"rows.jsonl:1:helpfulness: ratings go from 0 to 4, not 5"):
        read([steer("x", 5)], format="helpsteer")


def test_an_empty_answer_does_not_take_a_rank_from_the_others(read) -> None:
    made = read([steer("", 4), steer("b", 3)], format="helpsteer")
    assert ranked(made) == {"": None, "b": 1.0}
    assert reasons(made) == [("candidate", "empty_answer")]


# ---- TRL ----


def test_trl_text_pairs_keep_their_spaces(read) -> None:
    made = read([{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}], format="trl_pairs")
    assert contents(made) == [[("user", "The sky is")]]
    assert ranked(made) == {" blue.": 1.0, " green.": 2.0}


def test_trl_conversational_pairs_with_and_without_a_prompt_are_the_same(read) -> None:
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "yes"), ("assistant", "no")))
    explicit = read([{"prompt": [user], "chosen": [good], "rejected": [bad]}], format="trl_pairs")
    implicit = read([{"chosen": [user, good], "rejected": [user, bad]}], format="trl_pairs")
    assert ranked(explicit) == {"yes": 1.0, "no": 2.0}
    ids = [t["candidates"]["candidate_id"].to_list() for t in (explicit, implicit)]
    assert ids[0] == ids[1]


def test_trl_tools_and_template_arguments_belong_to_the_prompt(read) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    made = read([pair, pair | {"tools": [tool]}, pair | {"tools": json.dumps([tool])}], format="trl_pairs")
    assert made["prompts"].height == 2
    assert [json.loads(t) for t in made["prompts"]["tools"].drop_nulls()] == [[tool]]
    assert reasons(made) == []
    thinking = read([pair | {"chat_template_kwargs": {"enable_thinking": False}}], format="trl_pairs")
    assert thinking["prompts"]["template_kwargs"].to_list() == ['{"enable_thinking":false}']


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "a", "rejected": "b"}, "rows.jsonl:1:prompt: text pairs need a prompt"),
        ({"prompt": "p", "chosen": "a"}, "rows.jsonl:1:rejected: missing"),
        ({"prompt": "p", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}, "one message of the assistant"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "tools": "{"}, "rows.jsonl:1:tools: not JSON"),
    ],
)
def test_trl_wrong_shapes_are_named(read, row, said) -> None:
    with pytest.raises(PrefdataError, match=said):
        read([row], format="trl_pairs")


def test_trl_unpaired_answers_are_grouped_and_prompts_without_a_good_one_dropped(read) -> None:
    rows = [
        {"prompt": "p", "completion": "good", "label": True},
        {"prompt": "q", "completion": "poor", "label": False},
        {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "bad"}], "label": False},
        {"prompt": "r", "completion": "only good", "label": True},
    ]
    made = read(rows, 0.0, format="trl_unpaired")
    assert ranked(made) == {"good": 1.0, "bad": 2.0, "only good": 1.0}
    assert reasons(made) == [("row", "no_good_answer")]
    with pytest.raises(PrefdataError, match=r"rows.jsonl:1:label: bool expected, not int: 1"):
        read([rows[0] | {"label": 1}], format="trl_unpaired")


# ---- AlpacaEval ----


def outputs(generator: str, *answers: str):
    return [
        {"dataset": "helpful_base", "instruction": f"Question {i}", "output": a, "generator": generator, "datasplit": "eval"}
        for i, a in enumerate(answers)
    ]


def test_alpaca_eval_files_of_several_models_are_one_candidate_set(read, write_rows, make_run) -> None:
    one, two = (write_rows(json.dumps(outputs(m, *a)), f"{m}.json") for m, a in (("gpt", ("a", "b")), ("llama", ("c", "d"))))
    for paths in ([one, two], [two, one], str(Path(one).parent / "*.json")):
        run = make_run(sources={"sources": [{"name": "s", "path": paths, "format": "alpaca_eval"}]})
        run_stages(run, "sources")
        candidates = files.read_table(Path(run.outputs("sources")[1]), "candidates")
        assert sorted(candidates.select("response", "producer", "source_rank").iter_rows()) == [
            ("a", "gpt", None),
            ("b", "gpt", None),
            ("c", "llama", None),
            ("d", "llama", None),
        ]
        assert candidates["prompt_id"].n_unique() == 2


def test_alpaca_eval_input_follows_its_instruction(read) -> None:
    rows = [{"instruction": "Translate.", "input": "chat", "output": "cat", "generator": "m"}]
    assert contents(read(rows, format="alpaca_eval")) == [[("user", "Translate.\n\nchat")]]
    empty = [{"instruction": "Translate.", "input": "", "output": "cat", "generator": "m"}]
    assert contents(read(empty, format="alpaca_eval")) == [[("user", "Translate.")]]


@pytest.mark.parametrize(
    ("text", "said"),
    [("[]", "no rows"), ("[1]", "rows.json:0: not a JSON object"), ('[{"a": NaN}]', "NaN is not JSON"), ("[{", "not JSON")],
)
def test_arrays_are_read_strictly_too(read, text: str, said: str) -> None:
    with pytest.raises(PrefdataError, match=said):
        read(text, name="rows.json", format="alpaca_eval")


# ---- questions ----


def test_questions_keep_the_worked_answer_and_know_the_final_one(read) -> None:
    rows = [{"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 4"}, {"question": "9*1000?", "answer": "#### 9,000"}]
    made = read(rows, format="questions")
    assert sorted(made["prompts"]["answer"]) == ["4", "9,000"]
    assert ranked(made) == {"It is <<2+2=4>>4.\n#### 4": 1.0, "#### 9,000": 1.0}


def test_questions_without_a_final_answer_are_dropped_and_bare_ones_kept(read) -> None:
    assert reasons(read([{"question": "2+2?", "answer": "four"}], format="questions")) == [("row", "no_final_answer")]
    made = read([{"question": "2+2?", "solution": 4}], format="questions", fields={"final": "solution"})
    assert (made["prompts"]["answer"].to_list(), made["candidates"].height) == (["4"], 0)


# ---- mixtures, several files, policies ----


def test_a_weight_keeps_a_keyed_share_whatever_else_is_read(make_run, write_rows) -> None:
    path = write_rows([nectar(f"S{i}") for i in range(400)])
    kept = {}
    for weight in (0.25, 0.5):
        run = make_run(sources={"sources": [{"name": "s", "path": path, "weight": weight}], "max_reject_rate": 0})
        run_stages(run, "sources")
        prompts, _, drops = (files.read_table(Path(p), t) for p, t in zip(run.outputs("sources"), TABLES, strict=True))
        kept[weight] = set(prompts["prompt_id"])
        assert set(drops["reason"]) == {"not_sampled"}
        assert len(kept[weight]) + drops.height == 400
    assert 60 < len(kept[0.25]) < 140
    assert kept[0.25] < kept[0.5], "a larger weight keeps what a smaller one kept"


def test_a_prompt_thinned_away_does_not_come_back_from_the_next_source(make_run, write_rows) -> None:
    one, two = write_rows([nectar("Sba")], "one.jsonl"), write_rows([nectar("Sba")], "two.jsonl")
    sources = [{"name": "one", "path": one, "weight": 1e-9}, {"name": "two", "path": two}]
    run = make_run(sources={"sources": sources})
    run_stages(run, "sources")
    prompts, _, drops = (files.read_table(Path(p), t) for p, t in zip(run.outputs("sources"), TABLES, strict=True))
    assert prompts.is_empty()
    assert sorted(drops["reason"]) == ["not_sampled", "other_source"]


def test_parquet_files_whose_types_differ_harmlessly_are_one_source(tmp_path: Path, make_run) -> None:
    """As pandas, polars and datasets write them: text widths, whole numbers and floats, an index, a column of nulls."""
    schemas = [
        pa.schema([("prompt", pa.string()), ("answers", pa.list_(_answers(pa.string(), pa.int64()))), ("turns", pa.null())]),
        pa.schema([("prompt", pa.large_string()), ("answers", pa.large_list(_answers(pa.large_string(), pa.float64())))]),
        pa.schema(
            [("prompt", pa.dictionary(pa.int32(), pa.string())), ("answers", pa.list_(_answers(pa.string(), pa.int8())))]
        ),
    ]
    for i, schema in enumerate(schemas):
        rows = [{**nectar(f"S{i}{j}"), "turns": None, "__index_level_0__": j} for j in range(2)]
        extra = schema.append(pa.field("__index_level_0__", pa.int64())) if i == 1 else schema
        pq.write_table(pa.Table.from_pylist(rows, schema=extra), tmp_path / f"{i}.parquet")
    run = make_run(sources={"sources": [{"name": "s", "path": str(tmp_path / "*.parquet")}]})
    run_stages(run, "sources")
    assert files.read_table(run.table(Part("prompts", "sources"), 0), "prompts").height == 6


def _answers(text: pa.DataType, number: pa.DataType) -> pa.DataType:
    return pa.struct([("answer", text), ("model", text), ("rank", number)])


def test_parquet_files_with_different_columns_are_an_error_naming_both(read, tmp_path: Path, make_run) -> None:
    for name, rows in (("a", [nectar()]), ("b", [{**nectar("Sab"), "prompt": 7}])):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    run = make_run(sources={"sources": [{"name": "s", "path": str(tmp_path / "*.parquet")}]})
    with pytest.raises(PrefdataError, match=r"b.parquet: its column prompt .number. differs from that of .*a.parquet .text."):
        run_stages(run, "sources")


def test_a_text_prompt_is_read_as_turns_where_it_ends_open_only(read) -> None:
    pair = {"chosen": "a", "rejected": "b"}
    for text, turns in (
        ("Human: Why?\n\nAssistant:", [("user", "Why?")]),
        ("Human: Why is that a name?", [("user", "Human: Why is that a name?")]),
        ("Explain this log:\n\nAssistant: hi", [("user", "Explain this log:\n\nAssistant: hi")]),
    ):
        assert contents(read([{"prompt": text, **pair}], format="trl_pairs")) == [turns]
    assert reasons(read([{"prompt": "So:\n\nHuman: Why?\n\nAssistant:", **pair}], format="trl_pairs")) == [
        ("row", "bad_dialogue")
    ]


def test_arena_hard_answers_of_several_models_are_joined(read) -> None:
    def second(model: str, answer: object) -> dict[str, object]:
        asked = {"role": "user", "content": "Why?"}
        return {"uid": "1", "model": model, "messages": [asked, {"role": "assistant", "content": answer}]}

    first = {"question_id": "2", "model_id": "c", "choices": [{"index": 0, "turns": [{"content": "because"}]}]}
    made = read([second("a", {"answer": "so"}), second("b", "thus"), {**first, "prompt": "How?"}], format="arena_hard")
    assert sorted(made["candidates"].select("producer", "response").rows()) == [("a", "so"), ("b", "thus"), ("c", "because")]
    assert sorted(contents(made)) == [[("user", "How?")], [("user", "Why?")]]
    with pytest.raises(PrefdataError, match="rows.jsonl:1:prompt: an answer without the text of its question"):
        read([first], format="arena_hard")
    twice = {**first, "prompt": "How?", "choices": [{"turns": [{"content": "one"}, {"content": "two"}]}]}
    with pytest.raises(PrefdataError, match="rows.jsonl:1:choices: no answer: None"):
        read([twice], format="arena_hard")
    with pytest.raises(PrefdataError, match="rows.jsonl:1:messages: no answer: None"):
        read([second("a", {"text": "so"})], format="arena_hard")


@pytest.mark.parametrize(
    ("path", "said"), [("/nowhere/*.jsonl", "no file matches"), ("/tmp", "a folder, not a file; give its files, or a pattern")]
)
def test_patterns_without_a_file_and_folders_are_errors(make_run, path: str, said: str) -> None:
    with pytest.raises(PrefdataError, match=said):
        run_stages(make_run(sources={"sources": [{"name": "s", "path": path}]}), "sources")


def test_control_characters_are_dropped_or_kept_as_declared(make_run, write_rows) -> None:
    path = write_rows([nectar("Sba", (("a\x00b", 1), ("tab\there\r\n", 2), ("c", 3))), nectar("S\x1b[31m")])
    for policy, candidates, dropped in (("drop", 2, ["control_characters"] * 2), ("keep", 5, [])):
        run = make_run(sources={"sources": [{"name": "s", "path": path}], "max_reject_rate": 1, "control_characters": policy})
        run_stages(run, "sources")
        _, kept, drops = (files.read_table(Path(p), t) for p, t in zip(run.outputs("sources"), TABLES, strict=True))
        assert (kept.height, drops["reason"].to_list()) == (candidates, dropped)


def test_an_unknown_format_and_field_are_answered_with_the_nearest() -> None:
    source = {"name": "s", "path": "x", "format": "nectr"}
    with pytest.raises(ConfigError, match="format 'nectr' is unknown \\(did you mean 'nectar'"):
        validate_recipe({"name": "t", "sources": {"sources": [source]}}, "f")
    with pytest.raises(ConfigError, match=r"fields: unknown names \['rank'\]"):
        validate_recipe({"name": "t", "sources": {"sources": [source | {"format": "helpsteer", "fields": {"rank": "r"}}]}}, "f")


def test_answers_with_scores_alone_are_ranked_by_them(read) -> None:
    row = nectar()
    row["answers"] = [{"answer": a, "model": "m", "score": s} for a, s in (("x", -1.5), ("y", 2))]
    assert ranked(read([row])) == {"x": 2.0, "y": 1.0}


ODD = st.sampled_from(["text", "", " [1]", '[{"role": "user"}]', None, 3, 1.5, True, float("nan"), 0, ["x"]])


@given(
    st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(("answer", "model", "rank", "score"), ODD)) | ODD, max_size=3),
    st.fixed_dictionaries({}, optional={"num_responses": ODD, "ranks": ODD}),
)
def test_plain_answers_of_nectar_are_those_that_are_read_one_by_one(answers: list, more: dict) -> None:
    row = Fields({"prompt": "hi", "answers": answers, **more}, nectar_shape.SHAPE.fields, "f:1")

    def said() -> object:
        try:
            return nectar_shape.read(row)
        except DataError as error:
            return str(error)

    found = said()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nectar_shape, "_plain_answers", lambda row: None)
        assert said() == found


def test_most_answers_of_nectar_are_plain() -> None:
    row = {
        "prompt": "hi",
        "answers": [{"answer": "a", "model": "m", "rank": 1, "other": 2}, {"answer": "b", "model": "m", "rank": 2.5}],
    }
    made = nectar_shape._plain_answers(Fields(row, nectar_shape.SHAPE.fields, "f:1"))
    assert made is not None
    assert [(a.text, a.rank) for a in made] == [("a", 1.0), ("b", 2.5)]
