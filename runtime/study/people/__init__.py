"""What people are asked of a study's pictures: pages, their order, answers in a file, a server, a page without one."""
