"""What an application imports: the generated protocol and the client."""
