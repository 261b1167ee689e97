"""Made stories.jsonl: 32 openings, each continued by two small story models, ranked by their mean nats per character.

python tests/data/make_stories.py MODEL MODEL > tests/data/stories.jsonl   (stories260K and babyllama105)
Prompt and story have at most 250 characters, so that a character-level model with a context of 256 can score them.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NAMES = ("Lily", "Tom", "Mia", "Ben", "Sue", "Max", "Anna", "Tim")
SCENES = (
    "Once upon a time, {} had a red ball.",
    "One day, {} went to the park with mom.",
    "{} saw a little bird in a big tree.",
    "It was a sunny day and {} wanted to play.",
)
LIMIT = 250


def main() -> None:
    torch.manual_seed(1)
    pairs = [
        (AutoTokenizer.from_pretrained(p), AutoModelForCausalLM.from_pretrained(p).eval(), p.split("/")[-1])
        for p in sys.argv[1:]
    ]
    openings = [scene.format(name) for scene in SCENES for name in NAMES]
    told = {who: stories(tokenizer, model, openings) for tokenizer, model, who in pairs}
    for opening in openings:
        texts = {who: told[who][opening] for who in told}
        nats = {who: sum(per_character(t, m, opening, text) for t, m, _ in pairs) for who, text in texts.items()}
        order = sorted(nats, key=lambda w: -nats[w])
        listed = [{"answer": text, "model": who, "rank": order.index(who) + 1} for who, text in texts.items()]
        print(json.dumps({"prompt": opening, "answers": listed}))


def stories(tokenizer, model, openings: list[str]) -> dict[str, str]:
    """A continuation of every opening that ends with a sentence and says only what both vocabularies can."""
    told: dict[str, str] = {}
    while len(told) < len(openings):
        left = [o for o in openings if o not in told]
        rows = [[tokenizer.bos_token_id, *tokenizer.encode(o, add_special_tokens=False)] for o in left]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
        made = model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=0.7, max_new_tokens=255 - longest, pad_token_id=0
        )
        for opening, row in zip(left, made[:, longest:], strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True).strip()  # both tokenizers put the space before it
            text = text[: LIMIT - len(opening)]
            text = text[: text.rfind(".") + 1]
            if len(text) > 60 and "\n" not in text and text.isascii():
                told[opening] = text
    return told


def per_character(tokenizer, model, opening: str, text: str) -> float:
    before, after = (tokenizer.encode(t, add_special_tokens=False) for t in (opening, text))
    ids = torch.tensor([[tokenizer.bos_token_id, *before, *after]])
    with torch.no_grad():
        logps = model(ids).logits.log_softmax(-1)
    scored = logps[0, len(before) : -1].gather(1, ids[0, len(before) + 1 :, None])
    return float(scored.sum()) / len(text)


if __name__ == "__main__":
    main()
