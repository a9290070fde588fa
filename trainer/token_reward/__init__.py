"""The reward model: how relevant each token of a response is, or the response as a whole (TPPO 3.3).

It knows no judge, no policy and no PPO; its rows are judged already.
"""
