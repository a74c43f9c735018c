"""Record one full training, and compare scores and cuts on the record."""
