from farebox_portal.cli import main

main()
