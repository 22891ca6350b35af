"""Real campaigns whose answer is known: edits that change nothing, gains and losses."""
