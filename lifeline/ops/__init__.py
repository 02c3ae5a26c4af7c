"""What operators do: replay, verify, swap, snapshots, fingerprints, load."""
