"""What the client costs, side by side with the official clients and with a loop that has no client in it."""
