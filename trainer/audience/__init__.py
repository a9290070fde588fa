"""The simulated audience: people with needs who see lists, click, and type what they need next.

No public log has impressions of and clicks on generated query lists, so the project asks these people. What they want
is known by the catalogue and by words alone: no neural encoder is in here, so nothing is shared with the click
predictor, with co-occurrence retrieval or with a judge. Every figure they give is a simulated one.
"""
