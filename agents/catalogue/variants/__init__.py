"""The variants' code, one file per part: read as text by the catalogue, never imported."""
