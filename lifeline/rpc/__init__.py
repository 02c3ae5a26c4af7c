"""The gRPC server: its four services, the stages around every call, validation, routing and limits."""
