"""What do we read and write of the Trainer, its loops, its loaders and its ranks? Only here."""
