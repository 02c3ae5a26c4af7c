"""The wire contract: built from ``protos/lifeline/v1`` by ``make proto``, never edited."""
