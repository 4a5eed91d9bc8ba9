"""Runnable Deep Learning: one file a concept, each checked against an independent implementation."""
