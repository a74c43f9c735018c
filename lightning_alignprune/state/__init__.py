"""What is kept from epoch to epoch and goes into checkpoints?"""
