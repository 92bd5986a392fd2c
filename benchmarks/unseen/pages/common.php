<?php
// The forum's database, its session, and the frame of its pages.
session_save_path(getenv('FORUM_DATA') . '/sessions');
session_start();
$_SESSION['seen'] = ($_SESSION['seen'] ?? 0) + 1;
$db = new PDO('sqlite:' . getenv('FORUM_DATA') . '/forum.db');
$db->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
$db->exec('PRAGMA busy_timeout = 5000');

function rows(string $sql, array $values = []): array {
    global $db;
    $query = $db->prepare($sql);
    $query->execute($values);
    return $query->fetchAll(PDO::FETCH_ASSOC);
}

function page(string $title, string $body): void {
    $who = htmlspecialchars($_SESSION['name'] ?? 'guest');
    echo "<!doctype html><html><head><title>$title</title><link rel=stylesheet href=/static/forum.css></head>"
        . "<body><h1>$title</h1><p>$who, page {$_SESSION['seen']} of your visit</p>$body</body></html>";
}

// Turns the forum's marks into HTML, as such software does.
function marked(string $text): string {
    $text = htmlspecialchars($text);
    $text = preg_replace('/\*(\w+)\*/', '<b>$1</b>', $text);
    $text = preg_replace('/_(\w+)_/', '<i>$1</i>', $text);
    return preg_replace('/#(\d+)/', '<a href="/thread.php?id=$1">#$1</a>', $text);
}
