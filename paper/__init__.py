"""The papers in miniature: every table and figure on toy worlds, each claimed order with an interval."""
