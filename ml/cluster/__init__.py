"""The model on several machines: replicas on a Ray cluster, and the engine that sends them chunks.

Every module but `messages` needs Ray (requirements-ray.txt).
"""
