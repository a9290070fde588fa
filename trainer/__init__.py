"""The offline half: teaches the policy.

It never imports the service's pipeline, API or runtime.
"""
