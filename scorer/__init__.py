"""The scorer: TransActV2, its features, selection, weights and service."""
