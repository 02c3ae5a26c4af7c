"""Inspection of the stored records of partitions, users and chunks, including broken records."""
