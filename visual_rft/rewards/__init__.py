"""Rewards: (completion text, truth) to named parts, one module a family: `strict` (the default) and `paper` (as published), of one signature."""
