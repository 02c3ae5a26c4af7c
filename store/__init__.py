"""The store: codec, partition store, item table, fingerprint, reader. It imports no other part."""
