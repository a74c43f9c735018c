"""What did one step show of each sample's loss, and how is it weighted?"""
