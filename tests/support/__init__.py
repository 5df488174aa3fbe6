"""What several tests use: twins and references, toy bundles and tiny checkpoints."""
