"""Jobs that cron starts: stages as sub-processes, one at a time, recorded, resumable.

They know the commands of the packages, never their modules.
"""
