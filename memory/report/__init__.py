"""What a person reads: a campaign's summary, its report, its plot, its screens."""
