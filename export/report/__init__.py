"""What is said of a bundle: `parity` and `kinks` (errors against torch), `cards` (licences, where weights are from)."""
