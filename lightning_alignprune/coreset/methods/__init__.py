"""What makes a sample worth keeping?"""
