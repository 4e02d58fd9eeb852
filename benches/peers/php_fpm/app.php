<?php
// The application for php-fpm.

const JSON = '{"id":500,"name":"item 500","price":12.5,"tags":["a","b","c"],"in_stock":true}' . "\n";

function answer(string $type, string $body): void
{
    header("Content-Type: $type");
    header('Content-Length: ' . strlen($body));
    echo $body;
}

switch ($_SERVER['DOCUMENT_URI']) {
    case '/hello':
        answer('text/plain', "Hello, World!\n");
        break;
    case '/json':
        for ($i = 1; $i <= 20; $i++) {
            header("X-Header-$i: value $i");
        }
        answer('application/json', JSON);
        break;
    case '/up':
        $input = fopen('php://input', 'rb');
        for ($taken = 0; ($block = fread($input, 8192)) !== '' && $block !== false;) {
            $taken += strlen($block);
        }
        answer('text/plain', "$taken\n");
        break;
    case '/down':
        answer('application/octet-stream', str_repeat('x', 65536));
        break;
    case '/sqlite':
        // A connection that the process keeps from one request to the next.
        $database = new PDO('sqlite:' . getenv('BENCH_DATABASE'), options: [PDO::ATTR_PERSISTENT => true]);
        $statement = $database->prepare('SELECT name FROM item WHERE id = ?');
        $statement->execute([(int) $_GET['id']]);
        answer('text/plain', $statement->fetchColumn() . "\n");
        break;
    case '/slow':
        if ($_SERVER['QUERY_STRING'] === 'wait') {
            usleep(20_000);
        }
        answer('text/plain', "Hello, World!\n");
}
