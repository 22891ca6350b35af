"""Language modelling over byte-pair tokens, sized for minutes on one GPU."""
