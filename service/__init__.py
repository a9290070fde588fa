"""The online half: answers /recommend and /click.

It knows nothing about training.
"""
