"""Learning: models trained, judged and compared on what nodes have stored and logged."""
