"""The reasons in `drops` that mean bad input; all others are decisions of the recipe (need_2, duplicate, pruned_rank, ...).

`max_reject_rate` is about these only.
"""

BAD_ROWS = frozenset(
    {
        "bad_dialogue",
        "bad_text",
        "contradictory",
        "control_characters",
        "doubtful_score",
        "empty_answer",
        "empty_prompt",
        "no_candidate",
        "no_final_answer",
        "no_score",
        "role_leakage",
        "too_many_chars",
        "turns_differ",
    }
)
"""What `sources` finds in the rows themselves."""

BAD_LATER = frozenset({"lossy_tokenizer", "noise_failed"})
"""What only a tokenizer can find."""

BAD = BAD_ROWS | BAD_LATER
