"""What lives as long as one `Trainer.fit`, and dies with it."""
