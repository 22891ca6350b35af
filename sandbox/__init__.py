"""Where foreign code runs: tiers, warm starts, safe collection of outputs."""
