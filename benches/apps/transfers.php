<?php
// Takes a body to a file, and sends a file: what `benches/transfers` measures. `transfers.lua` does the same.
$path = substr($_SERVER['QUERY_STRING'], strlen('file='));
if ($_SERVER['REQUEST_METHOD'] === 'GET') {
    header('Content-Type: application/octet-stream');
    readfile($path);
} else {
    // Over the file that is there.
    stream_copy_to_stream(fopen('php://input', 'rb'), fopen($path, 'r+b'));
    echo "taken\n";
}
