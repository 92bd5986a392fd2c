"""What travels in requests and answers, one module a noun. Pydantic models; the client reads them too, so nothing else here."""
