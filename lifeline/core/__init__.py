"""What every part shares: actions, sequences, vocabulary, settings of Kafka and security, errors.

Of ours it imports nothing but `lifeline.v1`.
"""
