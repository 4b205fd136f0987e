"""From which account was it taken? Watermarked answers that are kept as evidence, and what a suspect's answers to them say."""
