# What runs in the place of code-server where the runtimes' contract is tried: it answers on the socket of its --socket=PATH, and
# exits with the code that "GET /exit/CODE" asks for.
use strict;
use warnings;
use IO::Socket::UNIX;
$SIG{TERM} = sub { exit 0 };
umask 0;
my ($socket) = map { /^--socket=(.*)/ } @ARGV;
my $listener = IO::Socket::UNIX->new(Local => $socket, Listen => 16) or die "can't listen on $socket: $!\n";
while (1) {
    my $connection = $listener->accept or next;
    my $line = <$connection> // '';
    exit $1 if $line =~ m{^GET /exit/(\d+) };
    while (defined(my $header = <$connection>)) { last if $header eq "\r\n" }
    print $connection "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    close $connection;
}
