"""P(click) of a query in a list: the click predictor's package, whose door will be `ctr/predictor.py`."""
