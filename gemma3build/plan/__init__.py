"""From a request and pins to steps. Pure: no clock, no network, no disk."""
