"""The transformers engine: keyed sampling, greedy, ends, limits; labels; positions preserved."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import nectar
from models import config, model

from prefdata.errors import EngineError
from prefdata.models.engines.protocol import Request, in_order
from prefdata.models.engines.transformers import TransformersEngine
from prefdata.models.forward import logprob
from prefdata.models.forward.logprob import row_logps
from prefdata.models.loading import load_model
from prefdata.models.scorer import Item, Scorer
from prefdata.models.settings import ReferenceSettings
from prefdata.models.tokens import load_encoder

assert nectar


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with the toy tokenizer `small`, as a model folder."""
    import transformers

    from prefdata.sources.toy import tokenizers

    path = tmp_path_factory.mktemp("model")
    tokenizers.write(path / "t")
    encoder = load_encoder(str(path / "t" / "small"))
    torch.manual_seed(0)
    shape = config("llama", vocab_size=len(encoder.tokenizer), max_position_embeddings=64, initializer_range=0.2)
    transformers.LlamaForCausalLM(shape).save_pretrained(path)
    encoder.tokenizer.save_pretrained(path)
    return path


def engine(folder: Path, seed: int = 0, end: str = "eos") -> TransformersEngine:
    return TransformersEngine(str(folder), None, "chat", end, "m@1", seed)


def request(text: str = "Sba", **keys: object) -> Request:
    return Request(f"id-{text}", ({"role": "user", "content": text},), **{"max_tokens": 12, **keys})


def test_a_sample_does_not_depend_on_its_batch(folder: Path) -> None:
    asked = [request(t, temperature=1.0, sample=s) for t in ("a", "Sbacd", "Rab") for s in range(3)]
    together = in_order(engine(folder).complete(asked))
    alone = [in_order(engine(folder).complete([r]))[0] for r in reversed(asked)]
    assert together == alone[::-1]
    assert len({c.text for c in together}) > 5, "another sample is another text"
    assert in_order(engine(folder, seed=1).complete(asked)) != together


def test_greedy_is_the_argmax_of_every_step(folder: Path) -> None:
    lm = engine(folder)
    text = in_order(lm.complete([request("Sba")]))[0]
    ids = lm.encoder.prompt(request("Sba").messages)
    for _ in range(text.num_tokens):
        ids.append(int(lm.model(torch.tensor([ids])).logits[0, -1].argmax()))
    made = ids[len(lm.encoder.prompt(request("Sba").messages)) :]
    assert lm.encoder.decode(made[:-1] if text.finish == "stop" else made) == text.text


def test_first_tokens_follow_the_models_probabilities(folder: Path) -> None:
    """The most likely first token's share over 400 samples at T = 1.3 within 4 standard errors."""
    lm, n = engine(folder, end="none"), 400
    prompt = lm.encoder.prompt(request().messages)
    p = torch.softmax(lm.model(torch.tensor([prompt])).logits[0, -1].double() / 1.3, -1)
    top = int(p.argmax())
    drawn = in_order(lm.complete([request(temperature=1.3, sample=s, max_tokens=1) for s in range(n)]))
    seen = Counter(c.text for c in drawn)
    share, expected = seen[lm.encoder.decode([top])] / n, float(p[top].detach())
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


def test_length_and_stop_and_no_room(folder: Path) -> None:
    cut = in_order(engine(folder, end="none").complete([request(max_tokens=3, temperature=1.0)]))[0]
    assert (cut.finish, cut.num_tokens) == ("length", 3)
    long = in_order(
        engine(folder).complete([request("S" * 100), request("a"), request("b" * 60, max_tokens=500, temperature=1.0)])
    )
    assert (long[0].finish, long[0].reason, long[0].text) == ("error", "no_room", "")
    assert long[1].finish in ("stop", "length")
    assert long[2].num_tokens <= 64 - 61, "never past the model's context"


def test_choose_is_the_log_prob_of_each_label(folder: Path) -> None:
    lm = engine(folder)
    rows = [c.logps for c in in_order(lm.choose([request("a"), request("Sbac")], ["A", "BC"]))]
    for r, row in zip(("a", "Sbac"), rows, strict=True):
        prompt = lm.encoder.prompt(request(r).messages)
        exact = row_logps(lm.model, [prompt, prompt], lm.encoder.contents(["A", "BC"]))
        assert row == pytest.approx(exact.tolist(), abs=1e-4)


def test_scoring_drops_what_is_too_long_and_sums_its_own_tokens(folder: Path) -> None:
    scorer = Scorer(str(folder), ReferenceSettings(name="r", model="m", max_tokens=20), "float32", 64)
    prompt = {"prompt_id": "p", "messages": [{"role": "user", "content": "Sba"}], "tools": None, "template_kwargs": None}
    other = {**prompt, "prompt_id": "q", "messages": [{"role": "user", "content": "Rabcde"}]}
    texts = ["ab", "x" * 30, "", "ba\n", "abcdef"]
    items = [
        Item(p, {"candidate_id": t, "response": t, "finish": f})
        for p in (prompt, other)
        for t in texts
        for f in ("stop", "length")
    ]
    values = scorer.values(items)
    for item, value in zip(items, values, strict=True):
        ids = scorer.encoder.completions([item.candidate["response"]], [item.candidate["finish"]])[0]
        start = scorer.encoder.prompt(item.prompt["messages"])
        if len(start) + len(ids) > 20:
            assert value == {"too_long": len(start) + len(ids)}
        else:
            assert value["num_tokens"] == len(ids)
            assert value["logp"] == pytest.approx(float(row_logps(scorer.model, [start], [ids]).detach()), abs=1e-4)
    assert sum("too_long" in v for v in values) == 4


def test_scoring_stops_where_the_shared_prefix_is_not_the_models_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logprob.Prefixes
    monkeypatch.setattr(logprob, "Prefixes", lambda layers, n: whole({i: (0 * k, v) for i, (k, v) in layers.items()}, n))
    prompt = {"prompt_id": "p", "messages": [{"role": "user", "content": "Sba"}], "tools": None, "template_kwargs": None}
    scorer = Scorer(str(folder), ReferenceSettings(name="r", model="m"), "float32", 64)
    with pytest.raises(EngineError, match="differ from plain rows"):
        scorer.values([Item(prompt, {"candidate_id": "c", "response": "abcab", "finish": "stop"})])


def test_a_soft_cap_is_computed_where_the_models_config_has_one(tmp_path: Path) -> None:
    """transformers' fused attention drops it without a word."""
    model("gemma2", torch.float32, attn_logit_softcapping=0.05).save_pretrained(tmp_path / "capped")
    model("gemma2", torch.float32, attn_logit_softcapping=None).save_pretrained(tmp_path / "plain")
    assert load_model(str(tmp_path / "capped")).config._attn_implementation == "eager"
    assert load_model(str(tmp_path / "plain")).config._attn_implementation == "sdpa"


def test_an_answer_that_the_tokenizer_cannot_give_back_is_not_scored(tmp_path: Path) -> None:
    """Its log-prob would be another text's: unknown words become <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {"<unk>": 0, "<bos>": 1, "a": 2, "b": 3, " ": 4}
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<bos>")
    tokenizer.save_pretrained(tmp_path)
    model(dtype=torch.float32).save_pretrained(tmp_path)
    own = ReferenceSettings(name="r", model=str(tmp_path), template="plain", end="none")
    prompt = {"prompt_id": "0" * 16, "messages": [{"role": "user", "content": "ab"}], "tools": None, "template_kwargs": None}
    items = [Item(prompt, {"candidate_id": t, "response": t, "finish": "stop"}) for t in ("a", "x")]
    scorer = Scorer(str(tmp_path), own, "float32", 100)
    encoder = scorer.encoder
    assert list(encoder.unfaithful(encoder.contents(["a", "x"]), ["a", "x"])) == [1]
    good, lossy = scorer.values(items)
    assert set(good) == {"logp", "num_tokens"}
    assert set(lossy) == {"lossy"}
