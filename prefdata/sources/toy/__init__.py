"""The embedded world of the demo: verifiable string tasks, simulated writers, an exact judge, two tokenizers."""
