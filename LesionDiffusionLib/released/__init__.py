"""The authors' published checkpoints: reading them safely, finding what inference needs, making a bundle of it."""
