"""The corpus of hostile input: values, bodies and requests that have broken services of this kind.

Everything carries MARKER where it can, so that a test sees when any of it comes back.
"""

MARKER = "zqxmarkerqxz"
