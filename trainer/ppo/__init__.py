"""Token-level PPO (TPPO 3.4): rewards for every token, and a policy that is trained on them.

It knows no log, no click and no job.
"""
