"""Runnable Deep Learning: a file a concept, each checked against an independent implementation."""
