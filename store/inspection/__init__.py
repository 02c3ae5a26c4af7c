"""What lies on disk, for those who operate it: by partition, user and chunk, with the broken records named."""
