"""Shared by all packages: actions, sequences, vocabulary, settings of Kafka and security, errors.

Of Lifeline it imports only `lifeline.v1`.
"""
