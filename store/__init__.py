"""The store: codec, partition store, embedding table, fingerprint, reader. It imports no other part."""
