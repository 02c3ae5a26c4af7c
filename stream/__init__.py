"""Applies the topics to the stores: transport, updater, standbys, items, dead letters, replay."""
